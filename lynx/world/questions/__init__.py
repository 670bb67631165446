"""What can be asked about a scene, with its answers."""
