"""What more than one part of this package needs and no library has: files, seeds."""
