"""Pictures for eyes: timelines, films, the map of the token interface."""
