"""MONAI Label's side of training: the `oneprompt` trainer."""
