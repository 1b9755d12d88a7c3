/* The number pi by the midpoint rule for 4/(1+x^2) on [0, 1]. */
#include <stdio.h>

int main(void)
{
    const long steps = 2000000;
    double sum = 0.0;
    for (long i = 0; i < steps; ++i) {
        double x = (i + 0.5) / steps;
        sum += 4.0 / (1.0 + x * x);
    }
    printf("%.9f\n", sum / steps);
    return 0;
}
