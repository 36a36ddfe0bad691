"""The sources of models: directories, downloads, object stores and their local copies.

All of it blocks: call it in worker threads. Imports nothing else from `model`.
"""
