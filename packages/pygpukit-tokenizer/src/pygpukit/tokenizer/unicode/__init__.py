"""Unicode as the reference tokenizer sees it: generated tables and sets of code points."""
