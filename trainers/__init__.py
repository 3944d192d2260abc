"""MONAI Label's side of training: the trainers `oneprompt` and `oneprompt_specialist`."""
