"""MONAI Label's side of inference: requests, the study list, the four tasks, the background job and the routes."""
