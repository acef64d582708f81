"""KubeEdge's EdgeCore on this host: fetched, configured, joined to its cloud, and put back when a change fails."""
