"""Work on the processes of a Ray cluster, which may be this machine alone.

Ray comes with requirements-scale.txt and is imported only when a cluster is joined, so everything else works without.
"""
