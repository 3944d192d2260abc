"""Parts of `scripts.pretrain`: the run and its checkpoints, its stages and episodes, its log."""
