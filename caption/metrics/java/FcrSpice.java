// SPICE 1.0 over a whole corpus, on Java 8 to 25: the parser and the scorer of spice-1.0.jar, called
// by reflection.
//
// spice-1.0.jar's own main writes its result through a script engine that Java 15 removed, and keeps
// parses in a native database that needs its modules opened. Here the result goes to stdout as JSON,
// and parses to a text file, so that references are parsed once however many captioners are compared.
//
// stdin:  one line an item, UTF-8: hypothesis TAB reference [TAB reference ...]
// stdout: SpiceStats.toJSONString(): [{"image_id": line number, "scores": {"All": {"f": ...}, ...}}]
// argv:   cache file (read if there, rewritten if captions are new), number of threads
// cache:  one line a caption: caption TAB tuple [TAB tuple ...]; a tuple's words joined by U+001F
//
// Built by `python -m caption.metrics.jvm` (needs a JDK).

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;

public class FcrSpice {
    private static final String SPICE = "edu.anu.spice.";
    private static final String[] SUBSETS = {
        "Object", "Attribute", "Relation", "Cardinality", "Color", "Size"
    };

    public static void main(String[] args) throws Exception {
        PrintStream stdout = new PrintStream(System.out, false, "UTF-8");
        System.setOut(System.err);  // the scorer talks
        List<String[]> items = new ArrayList<String[]>();
        Set<String> captions = new LinkedHashSet<String>();
        for (String line : lines(System.in)) {
            String[] fields = line.split("\t", -1);
            items.add(fields);
            captions.addAll(Arrays.asList(fields));
        }
        File cache = new File(args[0]);
        Object parser = construct("SpiceParser", new Class<?>[] {
            String.class, int.class, Boolean.class
        }, null, Integer.parseInt(args[1]), true);
        Map<String, ArrayList<ArrayList<String>>> parses = read(cache);
        captions.removeAll(parses.keySet());
        if (!captions.isEmpty()) {
            parses.putAll(parse(parser, new ArrayList<String>(captions)));
            write(cache, parses);
        }

        Map<String, Object> filters = new HashMap<String, Object>();
        for (String subset : SUBSETS) {
            String name = subset.toLowerCase() + "Filter";
            filters.put(subset, Class.forName(SPICE + "TupleFilter").getField(name).get(null));
        }
        Object synonyms = field(parser, "synonyms");
        Object stats = construct("SpiceStats", new Class<?>[] {Map.class, Boolean.class},
            filters, false);
        Class<?> graph = Class.forName(SPICE + "SceneGraph");
        Method score = stats.getClass().getMethod("score", Object.class, graph, graph,
            boolean.class);
        for (int i = 0; i < items.size(); i++) {
            String[] item = items.get(i);
            String[] references = Arrays.copyOfRange(item, 1, item.length);
            score.invoke(stats, i, graph(synonyms, parses, item[0]),
                graph(synonyms, parses, references), true);
        }
        stdout.print(stats.getClass().getMethod("toJSONString").invoke(stats));
        stdout.flush();
    }

    @SuppressWarnings("unchecked")
    private static Map<String, ArrayList<ArrayList<String>>> parse(
            Object parser, List<String> captions) throws Exception {
        Method generate = parser.getClass().getDeclaredMethod("generateTuples", List.class);
        generate.setAccessible(true);
        return (Map<String, ArrayList<ArrayList<String>>>) generate.invoke(parser, captions);
    }

    private static Object graph(Object synonyms,
            Map<String, ArrayList<ArrayList<String>>> parses, String... captions) throws Exception {
        Object graph = construct("SceneGraph", new Class<?>[] {
            Class.forName("edu.cmu.meteor.aligner.SynonymDictionary"), boolean.class
        }, synonyms, true);
        Method add = graph.getClass().getMethod("addTuple", ArrayList.class);
        for (String caption : captions) {
            for (ArrayList<String> tuple : parses.get(caption)) add.invoke(graph, tuple);
        }
        return graph;
    }

    private static Object construct(String name, Class<?>[] types, Object... arguments)
            throws Exception {
        Constructor<?> constructor = Class.forName(SPICE + name).getConstructor(types);
        return constructor.newInstance(arguments);
    }

    private static Object field(Object owner, String name) throws Exception {
        Field field = owner.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field.get(owner);
    }

    private static Map<String, ArrayList<ArrayList<String>>> read(File cache) throws IOException {
        Map<String, ArrayList<ArrayList<String>>> parses =
            new TreeMap<String, ArrayList<ArrayList<String>>>();
        if (!cache.exists()) return parses;
        for (String line : lines(Files.newInputStream(cache.toPath()))) {
            String[] fields = line.split("\t", -1);
            ArrayList<ArrayList<String>> tuples = new ArrayList<ArrayList<String>>();
            for (int i = 1; i < fields.length; i++) {
                tuples.add(new ArrayList<String>(Arrays.asList(fields[i].split("\u001f", -1))));
            }
            parses.put(fields[0], tuples);
        }
        return parses;
    }

    private static void write(File cache, Map<String, ArrayList<ArrayList<String>>> parses)
            throws IOException {
        Path scratch = Files.createTempFile(
            cache.getAbsoluteFile().getParentFile().toPath(), cache.getName(), ".tmp");
        PrintWriter out = new PrintWriter(Files.newBufferedWriter(scratch, StandardCharsets.UTF_8));
        for (Map.Entry<String, ArrayList<ArrayList<String>>> entry : parses.entrySet()) {
            out.print(entry.getKey());
            for (List<String> tuple : entry.getValue()) {
                String separator = "\t";
                for (String word : tuple) {
                    out.print(separator);
                    out.print(word);
                    separator = "\u001f";
                }
            }
            out.print('\n');
        }
        out.close();
        if (out.checkError()) throw new IOException("cannot write " + scratch);
        Files.move(scratch, cache.toPath(), StandardCopyOption.REPLACE_EXISTING);
    }

    private static List<String> lines(InputStream stream) throws IOException {
        BufferedReader in =
            new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8));
        List<String> lines = new ArrayList<String>();
        for (String line = in.readLine(); line != null; line = in.readLine()) lines.add(line);
        in.close();
        return lines;
    }
}
