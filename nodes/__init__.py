"""The programs: gateway, router, worker, replica, the all-in-one and the command line."""
