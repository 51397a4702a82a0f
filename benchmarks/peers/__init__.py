"""Speed and memory beside other libraries: same nets, images, batches and threads, in one run."""
