python3 -m py_compile words.py
