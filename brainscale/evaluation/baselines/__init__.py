"""What a network must beat: file headers alone, HOG with a support vector machine, and features that nobody trained."""
