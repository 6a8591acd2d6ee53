"""Who may speak in the fabric, and what: keys on ZeroMQ links, tokens on HTTP.  See docs/security.md.

Pure: :mod:`.known_keys`, :mod:`.roles`, :mod:`.guard`, :mod:`.tokens`.  The rest reads files and owns sockets.
"""
