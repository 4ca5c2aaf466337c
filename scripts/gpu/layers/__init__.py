"""The steps of first_contact.py, one module a layer."""
