"""Moving pods to another host: what each end does, over a line that the admin's machine holds."""
