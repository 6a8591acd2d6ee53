"""What runs the user's code: loading it, calling it, turning what it returns into an answer."""
