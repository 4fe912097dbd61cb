"""A connection: which server, whose transaction, what its errors mean; and the embedded server."""
