"""What import_reference.py is made of. Python's standard library and numpy; torch is never imported."""
