"""The Space's entry, and `python app.py`."""

import spaces  # noqa: F401  first: a ZeroGPU Space needs it before anything that may touch CUDA

# isort: split
import logging
import os

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # nothing is compiled, and the compiler takes long to load

from lynx.ui import launch

if __name__ == "__main__":
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("lynx.ui").setLevel(logging.INFO)  # who may do what here, in a line
    launch(
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        variables=os.environ,
        mcp_server=os.environ.get("GRADIO_MCP_SERVER", "").lower() == "true",
    )
