"""The examples of training, run on real data: one command for each task, from the data to the table."""
