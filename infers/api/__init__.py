"""HTTP: MONAI Label's routes as this app answers them, and its own."""
