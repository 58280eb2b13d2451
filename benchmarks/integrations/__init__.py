"""Other people's training pipelines, run with compression: what works, with which versions, and how many lines it takes."""
