"""What more than one part of this package needs: files, seeds, cores, optional imports."""
