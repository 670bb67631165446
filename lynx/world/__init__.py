"""The miniature world: procedural clips with sound, depth, fast motion and a second camera, with questions
and answers."""
