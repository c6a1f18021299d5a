"""What the coordinator and the command line do with the audit log: sign, prove, verify, export."""
