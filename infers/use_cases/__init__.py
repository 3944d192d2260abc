"""What clients ask the app to do: save a label, infer, publish weights, say how things stand."""
