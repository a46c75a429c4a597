"""What a trained network says of files. No Lightning here."""
