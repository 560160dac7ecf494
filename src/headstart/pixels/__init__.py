"""Arrays that say something of each pixel: interpolation, run lengths, outlines and pictures. NumPy and Pillow alone."""
