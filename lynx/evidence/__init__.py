"""What an answer rests on: attention over the senses (an indication) and hiding them (the check)."""
