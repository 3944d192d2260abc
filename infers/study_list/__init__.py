"""The study list as One-Prompt sees it: templates, descriptors, corrections, strategies, what is pending."""
