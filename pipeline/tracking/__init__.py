"""The record of what ran: spool → tracking server."""
