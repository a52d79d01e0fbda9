"""From a named source to the scaled, encoded training, validation and test parts."""
