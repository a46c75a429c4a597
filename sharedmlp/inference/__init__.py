"""What a trained network says of files; needs no Lightning."""
