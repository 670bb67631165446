"""What a clip of the miniature world shows and sounds like."""
