"""What an app needs beside its packages and should not invent again: sampler tables, and numbers to check itself with.

Nothing here depends on the format of the packages.
"""
