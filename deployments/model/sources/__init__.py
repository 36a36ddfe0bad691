"""Where models come from: directories, downloads, object stores and their local copies.

All of it blocks and belongs in worker threads. Imports nothing else of the model's.
"""
