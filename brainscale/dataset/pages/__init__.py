"""Pages for people to look at: joined pairs of images, and what may be wrong with images and labels."""
