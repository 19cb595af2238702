"""Other forms of a trained model, each compared with it on held-out text before it is kept."""
