"""MONAI Label's infer tasks, and the request keys that its clients send."""
