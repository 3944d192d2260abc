"""Images, volumes and prompts: files and formats, geometry, grey values; the ground that everything stands on."""
