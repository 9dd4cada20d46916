"""What Prosody's `mod_audit` modules record, for any application: logins, accounts, tokens, the server's life."""
