"""A Django app that records logins, password changes, the admin's changes and refused requests."""
