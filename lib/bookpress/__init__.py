"""Executes the chapters, builds the site and checks it; knows nothing of what the book is about."""
