"""The miniature world: procedural clips with sound, depth, fast motion, a second camera, and questions."""
