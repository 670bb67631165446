"""Files to arrays with times, and back. PyAV and trimesh live here alone."""
