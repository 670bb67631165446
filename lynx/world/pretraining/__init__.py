"""How the embedded backbone `lynx-tiny` is trained from nothing."""
