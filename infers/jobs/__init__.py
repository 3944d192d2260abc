"""Work in the background: masks for the whole list, batch inference, trainings."""
