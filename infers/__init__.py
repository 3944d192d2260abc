"""MONAI Label's side of inference: requests, the study list, the infer tasks, the background job and the routes."""
