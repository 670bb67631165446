"""A reader that crashes, hangs or fails as the name of the file says: what the command has to notice."""

import ctypes
import json
import sys
import time

print(json.dumps({"start": 0}), flush=True)
for line in sys.stdin:
    name = json.loads(line)["path"]
    if "crash" in name:
        ctypes.string_at(0)
    if "hang" in name:
        time.sleep(60)
    print(json.dumps({"outcome": "answered", "seconds": 0.0, "peak": 0}), flush=True)
