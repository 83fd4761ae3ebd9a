"""Plain maths that everybody uses: norms and projections, losses, random streams, statistics, float32."""
