"""The annotation page: a study in the browser, prompts and paint on it, and the label on its way back."""
